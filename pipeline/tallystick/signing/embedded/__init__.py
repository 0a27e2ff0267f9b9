"""An embedded Sigstore: certificate authority, CT log and transparency log in one folder. Development only.

One person holds all its keys, so it proves that the steps are right and not that several parties agree; its
authorities carry ``embedded-dev`` in their names, and no production policy accepts them.
"""
