include $(BR2_EXTERNAL_GODWIT_PATH)/package/godwit/godwit.mk

# grub-mkrescue looks for the platforms that it makes bootable in host/lib/grub; Buildroot leaves them where they were built.
define GODWIT_GRUB_PLATFORMS
	$(foreach platform,$(GRUB2_TUPLES-y),\
		$(TARGET_MAKE_ENV) $(MAKE) -C $(@D)/build-$(platform)/grub-core DESTDIR=$(HOST_DIR) install$(sep))
endef
GRUB2_POST_INSTALL_IMAGES_HOOKS += GODWIT_GRUB_PLATFORMS
