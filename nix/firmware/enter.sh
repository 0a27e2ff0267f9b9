# Makes the toolchain's tree the root of this namespace and runs the step's script in it, in /work.
set -eu
for d in $tree/*; do
    if [ -L $d ]; then
        ln -s $(readlink $d) root/
    else
        mkdir -p root/${d##*/}
        mount -o rbind $d root/${d##*/}
    fi
done
mkdir -p root/proc root/dev root/tmp root/work root/nix root/edk2
for d in proc dev nix; do mount -o rbind /$d root/$d; done
mount -o rbind $PWD/work root/work
[ -z "${prepared-}" ] || mount -o rbind $prepared root/edk2
exec chroot root /bin/sh -euc 'export HOME=/work TMPDIR=/tmp PATH=/usr/bin; cd /work; . '$program
