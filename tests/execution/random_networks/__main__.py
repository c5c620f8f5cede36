"""`python -m tests.execution.random_networks --seed 0 --count 10000` compares so many random networks."""

from tests.execution.random_networks.fuzz import main

main()
