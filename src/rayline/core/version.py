"""The version of this library: below everything that says it."""

VERSION = "0.1.0"
