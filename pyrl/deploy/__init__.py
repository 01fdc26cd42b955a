"""Policies that leave pyrl: a trained agent's deterministic actions as one file, in ONNX, TorchScript or plain NumPy."""
