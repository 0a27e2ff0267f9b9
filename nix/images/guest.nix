# The root file system of the guest, shared by the initramfs and the OCI image: a function of a toolkit.
#
# Three trees, so that a change of the project's source leaves the rest built: `userland` (busybox, Python, libraries),
# `wheels`, and `project` (this project's own modules and init script).
{ toolkit, source }:
let
  file = name: builtins.path { path = ./guest + "/${name}"; inherit name; };
  of = roles: builtins.filter (piece: builtins.elem piece.role roles) toolkit.guest;

  tree = name: spec: toolkit.run {
    name = "guest-${name}";
    outputs = [ "out" "contents" ];
    inherit (toolkit) writers;
    PYTHONNODEBUGRANGES = "1"; # byte code keeps its line numbers and drops its columns, a third of its size
    passAsFile = [ "spec" ];
    spec = builtins.toJSON (spec // { inherit name; });
    script = "python3 $writers/guest.py $specPath $out $contents";
    allowedReferences = [ ];
  };
in
rec {
  userland = tree "userland" {
    inherit (toolkit) python;
    pieces = of [ "busybox" "python" "library" ];
    stdlib = file "stdlib.txt";
    applets = file "applets.txt";
    libraries = file "libraries.txt";
  };
  wheels = tree "wheels" {
    pieces = of [ "wheel" ];
    left_out = file "left-out.txt";
  };
  project = tree "project" {
    inherit source;
    pieces = [ ];
    init = file "init";
  };
  trees = [ userland wheels project ];

  # Imports every module of the finished root with the root's own interpreter and libraries: what the trimming took away
  # by mistake is named here and not at a boot. The images take it as an input.
  imports = toolkit.run {
    name = "guest-imports";
    inherit trees;
    inherit (toolkit) writers;
    program = toolkit.python.program;
    script = "python3 $writers/imports.py $program $trees > $out";
  };
}
