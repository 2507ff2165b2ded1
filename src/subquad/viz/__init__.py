"""What people look at: pages and pictures. `maps` gives the numbers behind them as arrays."""

from subquad.viz.maps import Map, maps
from subquad.viz.page import Page
from subquad.viz.shown import Shown, Views, look

__all__ = ["Map", "Page", "Shown", "Views", "look", "maps"]
