"""`python -m anil_tf` is the command line `anil`."""

from anil_tf.cli import main

if __name__ == "__main__":
    main(prog_name="anil")
