# The products as functions of a toolkit, the project's source and a recipe.
{ toolkit, source, recipe }:
rec {
  guest = import ./guest.nix { inherit toolkit source; };
  initramfs = import ./initramfs.nix { inherit toolkit guest; };
  uki = import ./uki.nix { inherit toolkit source initramfs recipe; };
  oci = import ./oci.nix { inherit toolkit guest recipe; };
  eif = import ./eif.nix { inherit toolkit source initramfs recipe; };
}
