{{/* Labels of every object. */}}
{{- define "fastipam.labels" -}}
app.kubernetes.io/part-of: fastipam
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* The image of all containers. A tag such as 0.1.0@sha256:… pins it. */}}
{{- define "fastipam.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* What the pods of the agent, the controller and the uninstallation have in common. */}}
{{- define "fastipam.pod" -}}
nodeSelector:
  kubernetes.io/os: linux
  {{- with .nodeSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
enableServiceLinks: false
# A pod with an address of its own would need the agent to get one.
hostNetwork: true
# The node's resolv.conf: nothing here needs the cluster's DNS, which runs in pods.
dnsPolicy: Default
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Which node this is, and where the API is. Without a host: where the kubelet says that the service "kubernetes" is. */}}
{{- define "fastipam.environment" -}}
- name: NODE_NAME
  valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
- name: NODE_IP
  valueFrom: { fieldRef: { fieldPath: status.hostIP } }
- name: FASTIPAM_NAMESPACE
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
{{- with .Values.kubernetes }}
{{- if .host }}
- { name: KUBERNETES_SERVICE_HOST, value: {{ .host | quote }} }
- { name: KUBERNETES_SERVICE_PORT, value: {{ int .port | quote }} }
{{- end }}
{{- end }}
{{- end }}

{{/* The pools as a list of AddressPools, which the controller makes and kubectl can read. */}}
{{- define "fastipam.pools" -}}
{{- $items := list }}
{{- range .Values.pools }}
{{- $meta := dict "name" .name }}
{{- $spec := merge (dict "blockSize" (int .blockSize)) (omit . "name") }}
{{- if not .gateway }}{{ $spec = omit $spec "gateway" }}{{ end }}
{{- $item := dict "apiVersion" "fastipam.io/v1alpha1" "kind" "AddressPool" "metadata" $meta "spec" $spec }}
{{- $items = append $items $item }}
{{- end }}
{{- dict "apiVersion" "v1" "kind" "List" "items" $items | mustToPrettyJson }}
{{- end }}

{{/* Whether the agents masquerade. With a configuration of one's own its plugins do it, or nobody. */}}
{{- define "fastipam.masquerades" -}}
{{- if and .Values.network.ipMasq (not .Values.network.conflist) }}true{{ end }}
{{- end }}

{{/* The network configuration that the agent writes on each node: as `fastipam conflist` prints it. */}}
{{- define "fastipam.conflist" -}}
{{- with .Values.network }}
{{- if .conflist }}
{{- .conflist }}
{{- else }}
{{- $cluster := merge (dict "engine" "kubernetes") $.Values.cluster }}
{{- $ipam := merge (dict "type" "fastipam" "cluster" $cluster) .ipam }}
{{- /* The pod's annotations, which may choose its pool, as the runtime tells them. */}}
{{- $capabilities := dict "io.kubernetes.cri.pod-annotations" true }}
{{- /* The agent masquerades: a plugin knows one pool, and would masquerade what goes to another one. */}}
{{- $main := dict "type" .plugin "ipMasq" false "capabilities" $capabilities "ipam" $ipam }}
{{- if eq .plugin "bridge" }}
{{- $main = merge $main (dict "bridge" "cni0" "isGateway" true "hairpinMode" true) }}
{{- end }}
{{- if .mtu }}{{ $main = merge $main (dict "mtu" (int .mtu)) }}{{ end }}
{{- $plugins := list $main }}
{{- if .portmap }}
{{- $plugins = append $plugins (dict "type" "portmap" "capabilities" (dict "portMappings" true)) }}
{{- end }}
{{- if .bandwidth }}
{{- $plugins = append $plugins (dict "type" "bandwidth" "capabilities" (dict "bandwidth" true)) }}
{{- end }}
{{- $versions := list "1.0.0" "1.1.0" }}
{{- dict "cniVersion" "1.0.0" "cniVersions" $versions "name" .name "plugins" $plugins | mustToPrettyJson }}
{{- end }}
{{- end }}
{{- end }}
