# A derivation graph with every shape that the parser has to read. Nothing here is ever built.
{ count }:
let
  system = "x86_64-linux";
  make = attributes: derivation ({ inherit system; builder = "/bin/sh"; } // attributes);
  fixed = name: mode: algo: hash: make {
    inherit name; outputHashMode = mode; outputHashAlgo = algo; outputHash = hash; url = "seed:${name}";
  };
  zeros = n: builtins.concatStringsSep "" (builtins.genList (_: "0") n);
  seeds = [
    (fixed "flat-256" "flat" "sha256" (zeros 64))
    (fixed "tree-256" "recursive" "sha256" (zeros 64))
    (fixed "flat-512" "flat" "sha512" (zeros 128))
    (fixed "tree-512" "recursive" "sha512" (zeros 128))
    (fixed "flat-sha1" "flat" "sha1" (zeros 40))
    (fixed "tree-sha1" "recursive" "sha1" (zeros 40))
    (fixed "flat-md5" "flat" "md5" (zeros 32))
    # One hash fetched in two ways: Nix folds the two inputs into one when it hashes the user.
    (make { name = "flat-256"; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = zeros 64; url = "seed:elsewhere"; })
  ];
  many = make {
    name = "many-outputs"; outputs = [ "out" "dev" "lib" ];
    inherit seeds; text = "quote \" backslash \\ newline \n return \r tab \t dollar \${x} umlaut ä";
    args = [ "-c" "echo \"$out\"\n" "" ]; file = builtins.toFile "note.txt" "a source without a derivation\n";
  };
  structured = make { name = "structured"; __structuredAttrs = true; list = [ 1 "two" many.dev ]; };
  step = before: n: make { name = "step-${toString n}"; inherit before; tools = [ many.lib structured ]; };
in
builtins.foldl' step many (builtins.genList (n: n) count)
