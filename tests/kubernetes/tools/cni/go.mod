// cnitool, which is libcni as a command. It is a module of its own because its requirements conflict with the others'.
module fastipam.io/tests/kubernetes/tools/cni

go 1.26.0

tool github.com/containernetworking/cni/cnitool

require github.com/containernetworking/cni v1.3.0 // indirect
