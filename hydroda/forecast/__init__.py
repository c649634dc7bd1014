"""What a forecast is made of: what was known when, the weather and the window, the cycle of a filter, baselines, the
choice among methods and the intervals around it.
"""
