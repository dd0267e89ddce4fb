"""Published vocoder files: conversion of weights and configurations to ours and back."""
