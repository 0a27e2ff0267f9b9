# The trust root of the bootstrap: bytes pinned by sha256 in nix/lock, and nothing else.
#
# Every seed is a fixed-output derivation. `tally` adds the seed files to the store before it builds, so none of these
# ever runs; a lock names no host, and the URL below says so to whoever builds without adding the seeds first.
{ system, locks }:
let
  fetch = seed: derivation ({
    name = seed.file;
    inherit system;
    inherit (seed) version purl licence;
    pname = seed.package;
    builder = "builtin:fetchurl";
    url = "seed:${seed.path}";
    urls = [ "seed:${seed.path}" ];
    unpack = false;
    executable = false;
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = seed.sha256;
    preferLocalBuild = true;
  } // (if seed ? materials then { materials = builtins.toJSON seed.materials; } else { }));
in
rec {
  inherit system;

  # role -> [ { seed = <fixed-output derivation>; component = <record of the contents lists>; } ]
  of = role: map (entry: { seed = fetch entry; component = component entry; package = entry.package; }) locks.${role}.seeds;

  component = entry: {
    ref = entry.purl;
    kind = if locksKind entry == "pypi" then "wheel" else if entry ? materials then "firmware" else "deb";
    name = entry.package;
    seed = entry.file;
    inherit (entry) version purl licence sha256;
  };
  locksKind = entry: if builtins.match "pkg:pypi/.*" entry.purl != null then "pypi" else "debian";

  # The one binary that runs before anything was unpacked. A directory and not a file: Nix gives the builder its base
  # name as argv[0], and a busybox that is not called "busybox..." does not know which applet it is.
  # checks/seed-proof.nix compares it with the file inside Debian's package.
  busybox = derivation {
    name = "busybox-seed";
    inherit system;
    pname = "busybox-seed";
    version = (builtins.head locks.busybox.seeds).version;
    builder = "builtin:fetchurl";
    url = "seed:busybox-seed";
    urls = [ "seed:busybox-seed" ];
    unpack = true;
    executable = false;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
    outputHash = locks.busybox.unpacked.nar_sha256;
    preferLocalBuild = true;
  };
}
