# PufferLib 1.0.1 ships c_gae.pyx in its source package but does not build it.
set -e
cd "$VIRTUAL_ENV"
pip download --no-deps --no-binary pufferlib pufferlib==1.0.1
tar xzf pufferlib-1.0.1.tar.gz --strip-components 1 pufferlib-1.0.1/c_gae.pyx
CFLAGS="-O3 -I$(python -c 'import numpy; print(numpy.get_include())')" cythonize -i c_gae.pyx
mv c_gae.*.so "$(python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
