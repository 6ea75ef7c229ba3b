"""Access to private names of other libraries, one file a library or a kind of libraries.

Ray, XGBoost, LightGBM and others have no public function for some features that Rayline needs. Every private name that Rayline uses for
them is registered here, with the version it was last seen in and what happens without it; the functions of these files are the only
users. `tests/test_compat.py` checks each name against the installed version, tests each fallback, and finds private names elsewhere.

A library is imported only when a function that needs it is called.
"""
