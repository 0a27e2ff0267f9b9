# One build step: a shell script under the seeded busybox, with nothing on PATH that is not listed.
{ system, busybox }:
let
  sh = "${busybox}/bin/busybox";
  environment = {
    LC_ALL = "C";
    TZ = "UTC0";
    SOURCE_DATE_EPOCH = "1";
    PYTHONHASHSEED = "0";
    PYTHONDONTWRITEBYTECODE = "1";
    allowSubstitutes = false; # an image is built here or not at all
  };
  applets = derivation (environment // {
    name = "busybox-applets";
    inherit system;
    builder = sh;
    args = [ "sh" "-euc" "${sh} mkdir -p $out/bin; for a in $(${sh} --list); do ${sh} ln -s ${sh} $out/bin/$a; done" ];
  });
in
{ name, script, path ? [ ], ... }@step:
derivation (environment // removeAttrs step [ "script" "path" ] // {
  inherit name system;
  builder = sh;
  args = [ "sh" "-euo" "pipefail" "-c" ("umask 022; export HOME=$TMPDIR\n" + script) ];
  PATH = builtins.concatStringsSep ":" (map (p: "${p}/bin") (path ++ [ applets ]));
})
