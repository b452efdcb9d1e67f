"""``python -m cmkd``."""

from cmkd.cli.main import main

if __name__ == "__main__":
    main()
