# The OCI image: the guest's root as one layer, the image layout as one reproducible tar.
{ toolkit, guest, recipe }:
toolkit.run {
  name = "${recipe.name}-oci.tar";
  outputs = [ "out" "contents" ];
  inherit (toolkit) writers;
  inherit (guest) imports trees;
  listings = map (tree: tree.contents) guest.trees;
  passAsFile = [ "spec" ];
  spec = builtins.toJSON { inherit (recipe) name version; };
  script = ''
    python3 $writers/merge.py oci guest.json $listings
    python3 $writers/oci.py $specPath guest.json $out $contents $trees
  '';
  allowedReferences = [ ];
}
