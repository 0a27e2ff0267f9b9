# The unified kernel image: systemd's stub, the kernel, the initramfs, the command line.
{ toolkit, source, initramfs, recipe }:
toolkit.run {
  name = "${recipe.name}-uki.efi";
  outputs = [ "out" "contents" ];
  inherit (toolkit) writers;
  passAsFile = [ "spec" ];
  spec = builtins.toJSON {
    inherit (recipe) name version;
    command_line = recipe.command_lines.uki;
    inherit source initramfs;
    listing = initramfs.contents;
    kernel = { inherit (toolkit.kernel) tree component; };
    inherit (toolkit) stub;
  };
  script = "python3 $writers/uki.py $specPath $out $contents";
  allowedReferences = [ ];
}
