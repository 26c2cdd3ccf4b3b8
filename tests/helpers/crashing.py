"""A photo that ends the process that decodes it, as a fault in a decoder's C code does."""

import os


class CrashingPhoto(bytes):
    """The bytes of a photo; the decoder asks for their number first."""

    def __len__(self):
        os._exit(1)
