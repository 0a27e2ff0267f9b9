# The toolkit made from pinned Debian packages and wheels: what the images are functions of.
#
# Interface (nix/nixpkgs/toolkit.nix offers the same):
#   name            "debian"
#   run             { name, script, ... } -> derivation: a shell step with python3 and the usual small tools on PATH
#   writers         the folder nix/src
#   guest           pieces of the guest's root: [ { role, tree, component } ]; roles: busybox, python, library, wheel
#   python          { home, version }: where the interpreter and its library lie inside the python trees
#   kernel          { tree, component }: tree/vmlinuz, tree/release, tree/modules/*.ko, tree/modules/load (in load order)
#   stub            { file, component }
#   firmware        member or "sha256:…" -> { drv, output, file }: one file of the firmware package, or a released firmware
#   toolchain, edk2 the pinned packages that ../firmware builds with and from; this toolkit alone has them
# A component is the record that contents lists carry.
{ system ? "x86_64-linux", locks, modules }:
let
  seeds = import ./seeds.nix { inherit system locks; };
  step = import ./run.nix { inherit system; inherit (seeds) busybox; };

  writers = builtins.path {
    path = ../src;
    name = "tallystick-writers";
    filter = path: type: type == "regular" && builtins.match ".*\\.py" path != null;
  };

  # Debian's packages hold absolute symbolic links (/lib64/ld-linux-x86-64.so.2 -> /lib/...), which work on a host and
  # dangle in a sandbox: make them point into the tree.
  interpreterTree = step {
    name = "python-tree";
    debs = map (s: s.seed) (seeds.of "python");
    script = ''
      mkdir -p $out
      for d in lib lib64; do mkdir -p $out/usr/$d; ln -s usr/$d $out/$d; done
      for deb in $debs; do
        mkdir x; dpkg-deb -x $deb x; tar c -C x . | tar x -C $out; rm -r x
      done
      cd $out
      rm -r usr/share
      find . -type l | sort | while read link; do
        target=$(readlink "$link")
        case "$target" in /*) rm "$link"; ln -s "$out$target" "$link";; esac
      done
    '';
  };

  seedProof = import ../checks/seed-proof.nix {
    inherit step;
    inherit (seeds) busybox;
    package = (only "busybox").seed;
    inherit (locks.busybox.unpacked) member;
  };

  python = step {
    name = "python3";
    tree = interpreterTree;
    inherit seedProof;
    script = ''
      mkdir -p $out/bin
      libraries=$tree/usr/lib/x86_64-linux-gnu:$tree/lib/x86_64-linux-gnu
      {
        echo "#!${seeds.busybox}/bin/busybox sh"
        echo "export PYTHONHOME=$tree/usr PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1"
        echo "exec $tree/lib64/ld-linux-x86-64.so.2 --library-path $libraries $tree/usr/bin/python3.11 -s \"\$@\""
      } > $out/bin/python3
      chmod +x $out/bin/python3
    '';
  };

  run = args: step ({ path = [ python ]; } // args);

  # The files of one package that match the patterns, as a tree.
  unpack = { seed, component, package }: keep: run {
    name = "${builtins.replaceStrings [ "." ] [ "-" ] package}-tree";
    pname = package;
    inherit (component) version;
    inherit seed keep writers;
    script = "python3 $writers/unpack.py $seed $out $keep";
  };
  piece = role: keep: entry: { inherit role; tree = unpack entry keep; inherit (entry) component; };
  only = role: builtins.head (seeds.of role);
  # A firmware of this project's own release, which was built before and is pinned here by its digest.
  released = sha256:
    let one = builtins.head (builtins.filter (entry: entry.component.sha256 == sha256) (seeds.of "released"));
    in run {
      name = "${one.package}.fd";
      pname = one.package;
      inherit (one.component) version;
      inherit (one) seed;
      path = [ ];
      script = "cp $seed $out";
      allowedReferences = [ ];
    };
  single = role: member: { file = "${unpack (only role) [ member ]}/${member}"; inherit (only role) component; };
in
{
  name = "debian";
  inherit system run writers seeds seedProof;

  guest =
    [ (piece "busybox" [ "bin/busybox" ] (only "busybox")) ]
    ++ map (piece "python" [ "usr/bin/*" "usr/lib/*" "lib/*" "lib64/*" ]) (seeds.of "python")
    ++ map (piece "wheel" [ "*" ]) (seeds.of "wheels");
  python = { home = "usr/lib/python3.11"; program = "usr/bin/python3.11"; };

  kernel = {
    inherit (only "kernel") component;
    tree = run {
      name = "kernel-tree";
      pname = (only "kernel").package;
      inherit (only "kernel") seed;
      inherit modules writers;
      script = "python3 $writers/kernel.py $seed $out $modules";
    };
  };
  stub = single "stub" "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
  firmware = name:
    if builtins.match "sha256:.*" name == null
    then
      let tree = unpack (only "firmware") [ name ];
      in { drv = tree.drvPath; output = tree.outPath; file = "${tree}/${name}"; }
    else
      let file = released (builtins.substring 7 64 name);
      in { drv = file.drvPath; output = file.outPath; file = "${file}"; };
  toolchain = seeds.of "toolchain";
  edk2 = seeds.of "edk2";
}
