# The AWS Nitro Enclaves image (EIF v4): kernel, command line, initramfs.
{ toolkit, source, initramfs, recipe }:
toolkit.run {
  name = "${recipe.name}.eif";
  outputs = [ "out" "contents" ];
  inherit (toolkit) writers;
  passAsFile = [ "spec" ];
  spec = builtins.toJSON {
    inherit (recipe) name version;
    command_line = recipe.command_lines.eif;
    inherit source initramfs;
    listing = initramfs.contents;
    kernel = { inherit (toolkit.kernel) tree component; };
  };
  script = "python3 $writers/eif.py $specPath $out $contents";
  allowedReferences = [ ];
}
