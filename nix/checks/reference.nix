# The same files as in naive.nix through the project's own writer: two builds of it are equal.
{ toolkit }:
toolkit.run {
  name = "reference.cpio";
  inherit (toolkit) writers;
  script = ''
    python3 - $out <<X
    import sys
    sys.path.insert(0, "$writers")
    import cpio
    entries = [(f"f{i}", 0o100644, f"{i}\n".encode(), (0, 0)) for i in range(1, 41)]
    open(sys.argv[1], "wb").write(cpio.archive(entries))
    X
  '';
}
