# An archive made without care: its bytes depend on times, inode numbers and the order of a folder. Two builds of it
# differ, which is how the tests know that the comparison can see a difference.
{ toolkit }:
toolkit.run {
  name = "naive.cpio";
  path = [ ];
  script = ''
    mkdir r
    for i in $(seq 1 40); do echo $i > r/f$i; done
    cd r
    find . | cpio -o -H newc > $out
  '';
}
