from hypothesis import settings

# The first example of a test compiles its kernels; on a busy machine any example may be slow.
settings.register_profile("ps_alloc", deadline=None)
settings.load_profile("ps_alloc")
