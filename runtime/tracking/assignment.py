"""The assignment problem: match rows to columns at the lowest total cost.

Shortest augmenting paths with prices (Jonker and Volgenant, Computing 38, 1987), in the form for rectangular matrices
(Crouse, IEEE Transactions on Aerospace and Electronic Systems 52, 2016). Its time grows with the cube of the smaller
side; a frame has few boxes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assign(cost: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the pairs (row, column) with the smallest total cost; each row and each column is in one pair at most.

    Args:
        cost: finite float64 [rows, columns]. The smaller side is assigned completely.
    """
    rows, columns = cost.shape
    if rows > columns:
        return [(row, column) for column, row in assign(cost.T)]
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    column_of, row_of = np.full(rows, -1), np.full(columns, -1)
    for first in range(rows):
        column, distance, previous, settled = _shortest_path(first, cost, row_price, column_price, row_of)
        # With these prices, the costs along the path are zero and no cost is negative.
        slack = distance[column] - distance[settled]
        row_price[first] += distance[column]
        row_price[row_of[settled]] += slack
        column_price[settled] -= slack
        while column >= 0:
            row = previous[column]
            row_of[column] = row
            column_of[row], column = column, column_of[row]
    return list(enumerate(column_of.tolist()))


def _shortest_path(
    row: int,
    cost: NDArray[np.float64],
    row_price: NDArray[np.float64],
    column_price: NDArray[np.float64],
    row_of: NDArray[np.intp],
) -> tuple[int, NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Find the cheapest path from an unassigned row to an unassigned column (Dijkstra).

    Returns:
        The column; each column's distance, and the row before it on its path; the assigned columns along the way.
    """
    distance = np.full(len(row_of), np.inf)
    previous = np.full(len(row_of), -1)
    is_open = np.ones(len(row_of), bool)
    settled: list[int] = []
    reached = 0.0
    while True:
        through = reached + cost[row] - row_price[row] - column_price
        nearer = is_open & (through < distance)
        distance[nearer], previous[nearer] = through[nearer], row
        column = int(np.where(is_open, distance, np.inf).argmin())
        if row_of[column] < 0:
            return column, distance, previous, np.array(settled, np.intp)
        settled.append(column)
        is_open[column] = False
        reached, row = distance[column], row_of[column]
