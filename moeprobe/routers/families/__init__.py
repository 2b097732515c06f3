"""The odd families: one small file each, in the same way as users register their own routers."""

from moeprobe.routers.families import doge, jetmoe, llama4

__all__ = ["doge", "jetmoe", "llama4"]
