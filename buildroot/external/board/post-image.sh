#!/bin/sh
# The last step of Buildroot: has the lab pack kernel, modules and binary, by the same code and the same files (boot menu,
# list of modules, layout of the initramfs) as `cargo lab image`. Modules lie in a folder named after the one kernel.
set -eu

# Nothing in it is taken for up to date.
rm -rf "$BUILD_DIR/godwit-image"
godwit-lab image \
	--kernel "$BINARIES_DIR/bzImage" \
	--modules "$TARGET_DIR"/lib/modules/* \
	--binary "$BINARIES_DIR/godwit" \
	--to "$BUILD_DIR/godwit-image"
cp "$BUILD_DIR/godwit-image/godwit.iso" "$BINARIES_DIR/godwit.iso"
