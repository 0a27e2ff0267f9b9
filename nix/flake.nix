# The same images for who works with flakes: the bootstrap's (`.#uki`, ...) and, from nixpkgs, the second toolkit's
# (`.#nixpkgs-uki`, ...). Releases are made by `tally build`, which builds twice and adds the seeds to the store;
# here `tally seeds bundle -o DIR` and `nix-store --add-fixed sha256 DIR/*` do that by hand.
#
# The bootstrap's outputs never touch the input, so they evaluate and build without network. Use it from a checkout:
# nix build 'git+file:.?dir=nix#uki'.
{
  description = "Tallystick images";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      system = "x86_64-linux";
      images = toolkitOf: import ./. {
        recipe = builtins.readFile ./recipe.json; # what recipe.py makes of build/confidential-inference.yaml
        source = ../pipeline;
        inherit toolkitOf;
      };
      fromNixpkgs = { modules }: import ./nixpkgs/toolkit.nix {
        inherit modules;
        pkgs = import nixpkgs { inherit system; config = { }; overlays = [ ]; };
      };
      debian = images null;
      second = images fromNixpkgs;
    in
    {
      packages.${system} = {
        inherit (debian) initramfs uki oci eif;
        default = debian.uki;
        nixpkgs-initramfs = second.initramfs;
        nixpkgs-uki = second.uki;
        nixpkgs-oci = second.oci;
        nixpkgs-eif = second.eif;
      };
      checks.${system} = {
        inherit (debian.checks) seedProof probe reference;
        imports = debian.guest.imports;
      };
      # Functions of a toolkit, for images of one's own: { toolkit, source, recipe } -> { initramfs, uki, oci, eif }.
      lib.${system} = {
        images = import ./images;
        toolkits = { inherit debian fromNixpkgs; };
      };
    };
}
