"""The converter for people: a page to use by hand and an HTTP interface for programs, on one machine."""
