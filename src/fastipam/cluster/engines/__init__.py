"""The engines that cluster mode can stand on, and the one way to open one."""
