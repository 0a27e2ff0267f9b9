# What a build step really can do here. The driver reads the lines and refuses to go on when one is wrong.
#
# Poison: without build users of their own, a sandboxed step owns its inputs in the store and may change them
# (NixOS/nix#6358); the store's database does not notice.
{ toolkit, nonce, canary }:
let
  victim = toolkit.run {
    name = "probe-victim";
    inherit nonce;
    path = [ ];
    script = "echo intact > $out";
  };
in
toolkit.run {
  name = "probe";
  inherit nonce canary victim;
  path = [ ];
  script = ''
    say() { echo "$1=$2" >> $out; }
    say uid $(id -u)
    say interfaces "$(ip -o link | cut -d: -f2 | tr -d ' \n')"
    if [ -e "$canary" ]; then say canary seen; else say canary hidden; fi
    if [ -e /bin ] || [ -e /usr ]; then say programs host; else say programs none; fi
    (chmod 644 $victim && echo poisoned > $victim) 2>/dev/null || true
    say victim $(cat $victim)
  '';
}
