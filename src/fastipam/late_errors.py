"""The exceptions of ``errors``, for the modules that an ADD of the plugin imports.

Use it as ``from fastipam import late_errors as errors``, then ``raise errors.StoreFull(…)`` and
``except errors.StoreFull``. ``fastipam.errors`` is imported when the first exception is raised or
caught, because an ADD that succeeds needs none of them, and creating two dozen classes takes time.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastipam.errors import *  # noqa: F403
    from fastipam.errors import CHECK_HINT as CHECK_HINT  # noqa: PLC0414
    from fastipam.errors import hide_credentials as hide_credentials  # noqa: PLC0414
    from fastipam.errors import shown as shown  # noqa: PLC0414
else:

    def __getattr__(name: str) -> object:
        import fastipam.errors

        value = getattr(fastipam.errors, name)
        globals()[name] = value
        return value
