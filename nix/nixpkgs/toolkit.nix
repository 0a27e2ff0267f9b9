# The second toolkit: the interface of ../bootstrap/toolkit.nix from nixpkgs, so that the same image functions build from
# sources compiled by nixpkgs. The images are not bit-equal to the Debian ones; interface, provenance and checks are shared.
#
# nixpkgs' files carry store paths in their loader tables. The guest has a plain /usr, so every ELF file gets the usual
# loader and library folder, and what is left of store paths is blanked: an image must not refer to the store.
{ pkgs, modules, python ? pkgs.python311 or pkgs.python3, wheels ? [ "cryptography" "cffi" "rfc8785" ] }:
let
  inherit (pkgs) lib;
  libraries = "usr/lib/x86_64-linux-gnu";
  version = python.pythonVersion;

  writers = builtins.path {
    path = ../src;
    name = "tallystick-writers";
    filter = path: type: type == "regular" && builtins.match ".*\\.py" path != null;
  };

  run = { name, script, path ? [ ], ... }@step: pkgs.runCommand name
    (removeAttrs step [ "script" "path" "name" ] // {
      nativeBuildInputs = [ python ] ++ path;
      LC_ALL = "C";
      TZ = "UTC0";
      SOURCE_DATE_EPOCH = "1";
      PYTHONHASHSEED = "0";
      PYTHONDONTWRITEBYTECODE = "1";
      preferLocalBuild = true;
      allowSubstitutes = false;
    })
    script;

  # A component as contents lists have it. nar_of: the writer fills in the hash of this store path's NAR.
  component = kind: package: {
    ref = "pkg:nix/${lib.getName package}@${lib.getVersion package}";
    inherit kind;
    name = lib.getName package;
    version = lib.getVersion package;
    purl = "pkg:nix/${lib.getName package}@${lib.getVersion package}";
    licence = spdx package;
    seed = "";
    nar_of = "${package}";
  };
  spdx = package:
    let licences = lib.toList (package.meta.license or [ ]);
        ids = map (one: one.spdxId or null) licences;
    in if ids == [ ] || builtins.elem null ids then "NOASSERTION" else lib.concatStringsSep " AND " ids;

  # A copy of some files of a package that runs under /usr and refers to nothing in the store.
  plain = package: script: run {
    name = "${lib.getName package}-plain";
    path = [ pkgs.patchelf pkgs.nukeReferences ];
    inherit package;
    script = ''
      mkdir -p $out
      ${script}
      chmod -R u+w $out
      find $out -type f | sort | while read -r file; do
        if [ "$(head -c 4 "$file" | tail -c 3)" = ELF ]; then
          patchelf --set-interpreter /lib64/ld-linux-x86-64.so.2 "$file" 2>/dev/null || true
          case "$file" in */ld-linux*) ;; *) patchelf --set-rpath /${libraries} "$file" || true;; esac
          nuke-refs "$file"
        fi
      done
    '';
  };
  piece = role: kind: package: script: { inherit role; tree = plain package script; component = component kind package; };
  library = package: piece "library" "nixpkgs" package ''
    mkdir -p $out/${libraries}
    cp -L $package/lib/*.so* $out/${libraries}/
  '';
  wheel = name: piece "wheel" "nixpkgs" python.pkgs.${name} ''
    cp -r $package/lib/python${version}/site-packages/. $out/
  '';
  kernel = pkgs.linux;
in
{
  name = "nixpkgs";
  system = "x86_64-linux";
  inherit run writers;

  guest =
    [ (piece "busybox" "nixpkgs" pkgs.pkgsStatic.busybox "mkdir $out/bin; cp $package/bin/busybox $out/bin/") ]
    ++ [ (piece "python" "nixpkgs" python ''
      mkdir -p $out/usr/bin $out/usr/lib
      cp $package/bin/python${version} $out/usr/bin/
      cp $package/lib/libpython*.so* $out/usr/lib/ || true
      cp -r $package/lib/python${version} $out/usr/lib/
    '') ]
    ++ map library [ pkgs.glibc pkgs.zlib pkgs.expat pkgs.libffi pkgs.stdenv.cc.cc.lib (lib.getLib pkgs.openssl) ]
    ++ map wheel wheels;
  python = { home = "usr/lib/python${version}"; program = "usr/bin/python${version}"; };

  kernel = {
    component = component "nixpkgs" kernel;
    tree = run {
      name = "kernel-tree";
      inherit kernel modules writers;
      release = kernel.modDirVersion;
      script = ''
        mkdir -p package/boot package/lib
        ln -s $kernel/bzImage package/boot/vmlinuz-$release
        ln -s $kernel/lib/modules package/lib/modules
        python3 $writers/kernel.py package $out $modules
      '';
    };
  };
  stub = { file = "${pkgs.systemd}/lib/systemd/boot/efi/linuxx64.efi.stub"; component = component "nixpkgs" pkgs.systemd; };
  # nixpkgs names firmware by kind and not by Debian's path: only the file's name counts here.
  firmware = member: if builtins.match "sha256:.*" member != null then throw "released firmware is a seed of the bootstrap toolkit" else {
    drv = pkgs.OVMF.fd.drvPath;
    output = pkgs.OVMF.fd.outPath;
    file = "${pkgs.OVMF.fd}/FV/${baseNameOf member}";
  };
}
