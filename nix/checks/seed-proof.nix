# The one binary that came from outside unpacked is the file inside Debian's package: the package is opened with the
# seed itself, and the two are compared byte for byte. Python, and so every image, has this as an input.
{ step, busybox, package, member }:
step {
  name = "seed-proof";
  inherit busybox package member;
  script = ''
    dpkg-deb -x $package unpacked
    cmp unpacked/$member $busybox/bin/busybox
    echo "$member of $(basename $package) is the seed" > $out
  '';
}
