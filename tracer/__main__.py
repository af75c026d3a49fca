"""`python -m tracer`: the command line."""

from tracer.cli import main

if __name__ == "__main__":
    main()
