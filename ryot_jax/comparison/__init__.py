"""The comparison of compiled variants of one training step: variants, paired protocol, statistics, verdicts.

It knows arms, blocks and programs. How an arm trains is left to `training`, how results look to `report`.
"""
