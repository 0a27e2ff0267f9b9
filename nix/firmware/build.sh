# Inside the toolchain's tree, in /work: one firmware from the prepared source, which is only read.
export WORKSPACE=/work PACKAGES_PATH=/edk2 EDK_TOOLS_PATH=/edk2/BaseTools CONF_PATH=/work/Conf
export PYTHON_COMMAND=python3 PYTHONPATH=/edk2/BaseTools/Source/Python PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
export PATH=/edk2/BaseTools/Source/C/bin:/edk2/BaseTools/BinWrappers/PosixLike:/usr/bin
mkdir Conf
for name in build_rule tools_def target; do cp /edk2/BaseTools/Conf/$name.template Conf/$name.txt; done
python3 /edk2/BaseTools/Source/Python/build/build.py -a X64 -t GCC5 -b RELEASE -n 1 -s -q -p $platform || {
    tail -n 40 Build/*/*/BUILDLOG* 2>/dev/null
    exit 1
}
