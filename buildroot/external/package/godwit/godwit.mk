################################################################################
#
# godwit: the binary of the appliance, and the lab's program that packs the image
#
################################################################################

GODWIT_SITE = $(BR2_EXTERNAL_GODWIT_PATH)/../..
GODWIT_SITE_METHOD = local
GODWIT_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = --exclude=target/
GODWIT_LICENSE = MIT or Apache-2.0
GODWIT_LICENSE_FILES = LICENSE-MIT LICENSE-APACHE
GODWIT_INSTALL_TARGET = NO
GODWIT_INSTALL_IMAGES = YES
# The last line: what the packing runs.
GODWIT_DEPENDENCIES = \
	host-rustc \
	grub2 host-grub2 host-kmod host-mtools host-xorriso host-zstd

# Not the cargo-package infrastructure: that replaces the profile that Cargo.toml sets (the fast path builds with it), and
# it wants vendored crates, which a local site never gets. Cargo fetches what Cargo.lock names, with its checksums.
GODWIT_CARGO = cd $(@D) && $(TARGET_MAKE_ENV) $(PKG_COMMON_CARGO_ENV) \
	CC_x86_64_unknown_linux_musl="$(TARGET_CC)" \
	AR_x86_64_unknown_linux_musl="$(TARGET_AR)" \
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER="$(TARGET_CC)" \
	cargo build --locked --jobs $(PARALLEL_JOBS) --target-dir $(@D)/target

define GODWIT_BUILD_CMDS
	$(GODWIT_CARGO) --package godwit --release --target $(RUSTC_TARGET_NAME)
	$(GODWIT_CARGO) --package lab
endef

define GODWIT_INSTALL_IMAGES_CMDS
	$(INSTALL) -D -m 0755 $(@D)/target/$(RUSTC_TARGET_NAME)/release/godwit $(BINARIES_DIR)/godwit
	$(INSTALL) -D -m 0755 $(@D)/target/debug/lab $(HOST_DIR)/bin/godwit-lab
endef

$(eval $(generic-package))
