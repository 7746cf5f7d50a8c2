"""The command line: one verb a file; composes the stages and owns every print."""
