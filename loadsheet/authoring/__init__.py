"""Adds tables to pipeline files and starts new ones, from what the source's catalog shows."""
