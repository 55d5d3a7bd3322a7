{{/* What the schema cannot say. Every message has the value's name, what is there, and what to type. */}}

{{- define "fastipam.check" -}}
{{- include "fastipam.checkPools" . }}
{{- include "fastipam.checkNetwork" . }}
{{- include "fastipam.checkKeys" . }}
{{- with .Values.metrics }}
{{- if and .enabled (eq (int .port) (int $.Values.controller.port)) }}
{{- fail (printf "metrics.port and controller.port are both %d: on a node that runs both, only one of them could listen; type another one" (int .port)) }}
{{- end }}
{{- if and .podMonitor (not .enabled) }}
{{- fail "metrics.podMonitor is true, and needs metrics.enabled: true" }}
{{- end }}
{{- end }}
{{- with .Values.cluster }}
{{- $low := ternary .lowWater 0.25 (hasKey . "lowWater") | float64 }}
{{- $high := ternary .highWater 2 (hasKey . "highWater") | float64 }}
{{- if lt (subf $high $low) 1.0 }}
{{- fail (printf "cluster.highWater is %v, and less than one block above cluster.lowWater, %v: type a larger one" $high $low) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "fastipam.checkPools" -}}
{{- $before := list }}
{{- range $at, $pool := .Values.pools }}
{{- $where := printf "pools[%d]" $at }}
{{- $cidr := include "fastipam.cidr" .cidr | fromJson }}
{{- if not $cidr.text }}
{{- fail (printf "%s.cidr is %s, which is not a CIDR: type one such as 10.32.0.0/12 or fd00:10::/104" $where .cidr) }}
{{- else if $cidr.hasHostBits }}
{{- fail (printf "%s.cidr is %s, which has host bits: type %s" $where .cidr $cidr.text) }}
{{- else if ne .cidr $cidr.text }}
{{- fail (printf "%s.cidr is %s, which is not in canonical form: type %s" $where .cidr $cidr.text) }}
{{- else if hasPrefix ":" .cidr }}
{{- fail (printf "%s.cidr is %s, and blocks, which are named by their CIDR, cannot begin with a colon: type one such as fd00:10::/104" $where .cidr) }}
{{- else if or (hasPrefix "ff" .cidr) (regexMatch "^(127|22[4-9]|2[3-5][0-9])[.]" .cidr) }}
{{- fail (printf "%s.cidr is %s, which has loopback or multicast addresses: type one such as 10.32.0.0/12" $where .cidr) }}
{{- end }}
{{- $isFour := contains "." .cidr }}
{{- $low := max (int $cidr.length) ($isFour | ternary 16 112) }}
{{- $high := min (add (int $cidr.length) 20) ($isFour | ternary 32 128) }}
{{- if or (lt (int .blockSize) (int $low)) (gt (int .blockSize) (int $high)) }}
{{- $hint := le (int $low) (int $high) | ternary (printf "type %d to %d" $low $high) "make cidr smaller: a pool has 1048576 blocks of 65536 addresses at most" }}
{{- fail (printf "%s.blockSize is %d, which cannot cut %s into blocks: %s" $where (int .blockSize) .cidr $hint) }}
{{- end }}
{{- include "fastipam.checkGateway" (dict "pool" . "where" $where "isFour" $isFour) }}
{{- range $number, $text := .exclude }}
{{- $place := printf "%s.exclude[%d]" $where $number }}
{{- $hole := include "fastipam.exclusion" . | fromJson }}
{{- if not $hole.first }}
{{- fail (printf "%s is %s, which is not a CIDR, an address or a range: type one such as 10.32.0.0/28, 10.32.0.5 or 10.32.0.1-10.32.0.9" $place .) }}
{{- else if $hole.hasHostBits }}
{{- fail (printf "%s is %s, which has host bits: type %s, or the address alone" $place . $hole.text) }}
{{- else if or (ne (len $hole.first) (len $cidr.first)) (lt $hole.last $cidr.first) (gt $hole.first $cidr.last) }}
{{- fail (printf "%s is %s, which lies outside of %s: leave it out" $place . $pool.cidr) }}
{{- end }}
{{- end }}
{{- range $before }}
{{- if eq .name $pool.name }}
{{- fail (printf "%s.name is %s, which an earlier pool has: type another one" $where .name) }}
{{- else if and (eq (len .first) (len $cidr.first)) (le .first $cidr.last) (le $cidr.first .last) }}
{{- fail (printf "%s.cidr is %s, which overlaps %s of the pool %s: type one beside it" $where $pool.cidr .cidr .name) }}
{{- end }}
{{- end }}
{{- $before = append $before (dict "name" .name "cidr" .cidr "first" $cidr.first "last" $cidr.last) }}
{{- end }}
{{- end }}

{{- define "fastipam.checkGateway" -}}
{{- with .pool.gateway }}
{{- $gateway := include "fastipam.address" . | fromJson }}
{{- if not $gateway.text }}
{{- fail (printf "%s.gateway is %s, which is not an IP address: type one, or leave it out" $.where .) }}
{{- else if ne . $gateway.text }}
{{- fail (printf "%s.gateway is %s, which is not in canonical form: type %s" $.where . $gateway.text) }}
{{- else if ne $.isFour (contains "." .) }}
{{- fail (printf "%s.gateway is %s, which is not of the family of %s: type one that is" $.where . $.pool.cidr) }}
{{- else if or (eq . "::") (eq . "::1") (hasPrefix "ff" .) (regexMatch "^(0[.]0[.]0[.]0$|127[.]|22[4-9][.]|2[3-5][0-9][.])" .) }}
{{- fail (printf "%s.gateway is %s, which no router can have: type another one, or leave it out" $.where .) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "fastipam.checkNetwork" -}}
{{- with .Values.network }}
{{- $mtu := int .mtu }}
{{- if and $mtu (lt $mtu 576) }}
{{- fail (printf "network.mtu is %d: type 0 for that of the node's interface, or 576 to 65535" $mtu) }}
{{- end }}
{{- range $key := list "type" "cluster" }}
{{- if hasKey $.Values.network.ipam $key }}
{{- fail (printf "network.ipam.%s is %s, and the chart writes this key: use the values under cluster, or network.conflist" $key (index $.Values.network.ipam $key | toJson)) }}
{{- end }}
{{- end }}
{{- range $key := list "ranges" "subnet" "rangeStart" "rangeEnd" "gateway" "range" "range_start" "range_end" "ipRanges" "exclude" "static" }}
{{- if hasKey $.Values.network.ipam $key }}
{{- fail (printf "network.ipam.%s is %s, and the AddressPools say which addresses there are: use pools" $key (index $.Values.network.ipam $key | toJson)) }}
{{- end }}
{{- end }}
{{- range $.Values.pools }}
{{- if and $mtu (lt $mtu 1280) (contains ":" .cidr) }}
{{- fail (printf "network.mtu is %d, and an IPv6 link needs 1280 or more, for the pool %s: type 1280, say" $mtu .name) }}
{{- end }}
{{- end }}
{{- with .conflist }}
{{- $given := fromJson . }}
{{- $hint := "type a JSON object with \"name\" and \"plugins\", or leave it empty" }}
{{- if or (hasKey $given "Error") (not (kindIs "slice" $given.plugins)) }}
{{- fail (printf "network.conflist is not a network configuration list, but %s: %s" (trunc 40 .) $hint) }}
{{- end }}
{{- if not (and (kindIs "string" $given.name) (regexMatch "^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$" (toString $given.name))) }}
{{- fail (printf "network.conflist has the name %v, which no network can have: type one such as podnet" $given.name) }}
{{- end }}
{{- $found := false }}
{{- range $given.plugins }}
{{- if not (and (kindIs "map" .) (kindIs "string" .type)) }}
{{- fail (printf "network.conflist has in \"plugins\" an item that is not an object with a \"type\": %s" (toJson .)) }}
{{- end }}
{{- if and (kindIs "map" .ipam) (eq (toString .ipam.type) "fastipam") (hasKey .ipam "cluster") }}{{ $found = true }}{{ end }}
{{- end }}
{{- if not $found }}
{{- fail "network.conflist has no plugin whose \"ipam\" has \"type\": \"fastipam\" and a \"cluster\": the agents need one; `fastipam conflist` prints such a list" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The keys of maps: names of labels and resources. */}}
{{- define "fastipam.checkKeys" -}}
{{- $label := "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$" }}
{{- with .Values }}
{{- $maps := dict "controller.nodeSelector" .controller.nodeSelector "metrics.labels" .metrics.labels }}
{{- range $who := list "agent" "controller" }}
{{- range $key, $map := index $.Values $who "resources" }}
{{- $maps = set $maps (printf "%s.resources.%s" $who $key) $map }}
{{- end }}
{{- end }}
{{- range $name, $map := $maps }}
{{- range $key, $value := $map }}
{{- if not (regexMatch $label $key) }}
{{- fail (printf "%s has the key %q, which cannot be a name: type one such as example.com/pool" $name $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- range list "app.kubernetes.io/part-of" "app.kubernetes.io/version" }}
{{- if hasKey $.Values.metrics.labels . }}
{{- fail (printf "metrics.labels.%s is a label that the chart sets: type another one" .) }}
{{- end }}
{{- end }}
{{- if hasKey .controller.nodeSelector "kubernetes.io/os" }}
{{- fail "controller.nodeSelector.kubernetes.io/os is a label that the chart sets, to linux: leave it out" }}
{{- end }}
{{- end }}
{{- end }}
