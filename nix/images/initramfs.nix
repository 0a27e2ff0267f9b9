# The initramfs: one cpio archive under xz for each tree of the guest, one after the other, as the kernel allows
# (Documentation/driver-api/early-userspace/buffer-format.rst). What did not change is not compressed again.
{ toolkit, guest }:
let
  part = tree: toolkit.run {
    name = "${tree.name}.cpio.xz";
    inherit (toolkit) writers;
    inherit tree;
    listing = tree.contents;
    script = "python3 $writers/initramfs.py part $tree $listing $out";
    allowedReferences = [ ];
  };
  modules = toolkit.run {
    name = "guest-modules";
    outputs = [ "out" "contents" ];
    inherit (toolkit) writers;
    kernel = toolkit.kernel.tree;
    component = builtins.toJSON toolkit.kernel.component;
    script = "python3 $writers/initramfs.py modules $kernel \"$component\" $out $contents";
    allowedReferences = [ ];
  };
  trees = guest.trees ++ [ modules ];
in
toolkit.run {
  name = "initramfs.cpio.xz";
  outputs = [ "out" "contents" ];
  inherit (toolkit) writers;
  inherit (guest) imports;
  parts = map part trees;
  listings = map (tree: tree.contents) trees;
  script = ''
    cat $parts > $out
    python3 $writers/merge.py initramfs $contents $listings
  '';
  allowedReferences = [ ];
}
