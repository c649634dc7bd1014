"""Pauwels, De Lannoy, Hendricks Franssen & Vereecken (2013), HESS 17, 3499: biases of forecast and gauge at once."""
