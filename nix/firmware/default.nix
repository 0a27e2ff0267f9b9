# OVMF for confidential guests, built from Debian's edk2 source package with Debian's compiler, all pinned by sha256.
#
#   ovmf-amdsev    OvmfPkg/AmdSev: SEV-SNP. Its measured metadata has a page for the hashes of kernel, initrd and command
#                  line, and it stops when what the host gives is not what that page says. It embeds no boot loader:
#                  where Debian's GRUB would be, there is an application that stops (loader.py).
#   ovmf-inteltdx  OvmfPkg/IntelTdx: TDX. It extends what it starts into the runtime registers; AmdSev's does not.
#
# Both are a function of: toolkit, the trees of the toolchain's packages, and the source package's archives.
{ toolkit, toolchain, edk2 }:
let
  files = builtins.path { path = ./.; name = "firmware-files"; filter = path: _: builtins.match ".*\\.(py|sh)" path != null; };
  archive = pattern: builtins.head (builtins.filter (one: builtins.match pattern one.component.seed != null) edk2);
  source = archive ".*\\.orig\\.tar\\.xz";
  packaging = archive ".*\\.debian\\.tar\\.xz";

  # Debian's programs under their usual paths, with busybox for the small tools.
  tree = toolkit.run {
    name = "toolchain-tree";
    path = [ ];
    inherit (toolkit.seeds) busybox;
    debs = map (one: one.seed) toolchain;
    script = ''
      mkdir -p $out/usr/bin $out/usr/lib $out/usr/lib64 $out/usr/sbin
      for deb in $debs; do dpkg-deb -x $deb $out; done
      rm -rf $out/usr/share/doc $out/usr/share/man $out/usr/share/locale
      for d in bin lib lib64 sbin; do ln -s usr/$d $out/$d; done
      cp $busybox/bin/busybox $out/usr/bin/busybox
      for a in $($busybox/bin/busybox --list); do [ -e $out/usr/bin/$a ] || ln -s busybox $out/usr/bin/$a; done
      cd $out/usr/bin
      ln -sf bash sh # busybox's own shell prefers its applets to the programs of the packages
      ln -sf python3.13 python3
      for tool in x86_64-linux-gnu-*; do
        plain=''${tool#x86_64-linux-gnu-}
        ln -sf $tool ''${plain%-14}
      done
      ln -sf gcc cc
    '';
  };

  # A script of this folder inside that tree: a user namespace of its own, where the tree is the root and `work` the
  # writable folder. Debian's programs then run as they are (docs/decisions/0083-firmware.md).
  inside = script: { after, ... }@args: toolkit.run ({
    inherit tree files;
    program = "${files}/${script}";
    script = ''
      mkdir -p root work
      unshare -U -r -m sh $files/enter.sh
      ${after}
    '';
    allowedReferences = [ ];
  } // removeAttrs args [ "after" ]);

  # The patched source and the programs that the build itself needs, made once for both firmwares.
  prepared = inside "prepare.sh" {
    name = "edk2-prepared";
    source = source.seed;
    packaging = packaging.seed;
    after = "mv work/edk2 $out";
  };

  build = name: platform: image: inside "build.sh" {
    inherit name prepared platform image;
    outputs = [ "out" "contents" ];
    component = builtins.toJSON source.component;
    inherit (toolkit) writers;
    after = ''
      cp work/$image $out
      PYTHONPATH=$writers python3 $files/listing.py ${name} $out "$component" $contents
    '';
  };
in
{
  inherit prepared;
  ovmf-amdsev = build "ovmf-amdsev" "OvmfPkg/AmdSev/AmdSevX64.dsc" "Build/AmdSev/RELEASE_GCC5/FV/OVMF.fd";
  ovmf-inteltdx = build "ovmf-inteltdx" "OvmfPkg/IntelTdx/IntelTdxX64.dsc" "Build/IntelTdx/RELEASE_GCC5/FV/OVMF.fd";
}
