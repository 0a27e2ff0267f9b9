# Inside the toolchain's tree, in /work: unpack, patch as Debian does, and build edk2's own programs.
mkdir edk2
tar -x -J -f $source -C edk2 --strip-components 1
tar -x -J -f $packaging -C edk2
# What no part of these two firmwares is made from.
rm -r edk2/CryptoPkg/Library/OpensslLib/openssl/test edk2/CryptoPkg/Library/OpensslLib/openssl/doc
cd edk2
while read -r patch; do
    case "$patch" in '' | '#'*) continue ;; esac
    patch -s -p1 --no-backup-if-mismatch < debian/patches/$patch
done < debian/patches/series
rm -r debian
python3 $files/loader.py OvmfPkg/AmdSev/Grub/grub.efi
# The step that would make a GRUB; what it makes is there already.
sed -i '/^  PREBUILD /d' OvmfPkg/AmdSev/AmdSevX64.dsc
make -s -C BaseTools/Source/C PYTHON_COMMAND=python3
find . -name '*.o' -o -name '*.d' -o -name '__pycache__' | while read -r made; do rm -rf "$made"; done
