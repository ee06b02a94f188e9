"""python -m tuwen.cli"""

from tuwen.cli import main

main()
