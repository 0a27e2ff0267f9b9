# Everything that a recipe names, as functions of a toolkit.
#
#   recipe   JSON text: what pipeline/tallystick/build/recipe.py makes of the recipe file
#   source   folder that holds tallystick/ (the project's own Python)
#   locks    folder of the lock files that the recipe names
#   nonce, canary   of the probes in ./checks
#   toolkitOf       { modules } -> toolkit; without it, the one made from pinned Debian packages
{ recipe, source, locks ? ./lock, nonce ? "", canary ? "", toolkitOf ? null }:
let
  wanted = builtins.fromJSON recipe;
  pinned = builtins.mapAttrs (_: name: builtins.fromJSON (builtins.readFile (locks + "/${name}.json"))) wanted.locks;
  words = text: builtins.filter (line: builtins.isString line && line != "" && builtins.substring 0 1 line != "#") (builtins.split "\n" text);
  modules = words (builtins.readFile ./images/guest/modules.txt);
  debian = { modules }: import ./bootstrap/toolkit.nix { locks = pinned; inherit modules; };
  toolkit = (if toolkitOf == null then debian else toolkitOf) { inherit modules; };
  images = import ./images { inherit toolkit; source = guestSource source; recipe = wanted; };
  firmwares = import ./firmware {
    inherit toolkit;
    inherit (toolkit) toolchain edk2;
  };
  made = images // { inherit (firmwares) ovmf-amdsev ovmf-inteltdx; };
  # What of the project goes into the guest: these packages' .py files and nothing else.
  guestSource = root: builtins.path {
    path = root;
    name = "tallystick-source";
    filter = path: type:
      let relative = builtins.substring (builtins.stringLength (toString root) + 1) 4096 path;
      in if type == "directory"
        then builtins.match "tallystick(/(core|handshake|attester)(/.*)?)?" relative != null && baseNameOf path != "__pycache__"
        else type == "regular" && builtins.match "tallystick/(__init__|(core|handshake|attester)/.*)\\.py" relative != null;
  };
in
made // {
  inherit toolkit firmwares;
  checks = import ./checks { inherit toolkit nonce canary; };
  probe = let made = import ./checks/probe.nix { inherit toolkit nonce canary; }; in [ made.drvPath made.outPath ];
  # What `tally build` asks for: store paths of every product by name, and the firmware.
  index = {
    products = builtins.listToAttrs (map
      (name: { inherit name; value = { drv = made.${name}.drvPath; out = made.${name}.outPath; contents = made.${name}.contents.outPath; }; })
      wanted.products);
    firmware = builtins.mapAttrs (_: member: toolkit.firmware member) wanted.firmware;
  };
}
