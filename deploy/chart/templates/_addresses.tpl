{{/* Addresses as numbers. Templates have no numbers of 128 bits, so an address is a list of numbers of 16 bits. */}}

{{/* The address of a text, as JSON {"groups": […], "text": its canonical form}; {} if it is none. */}}
{{- define "fastipam.address" -}}
{{- $octet := "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])" }}
{{- $groups := list }}
{{- if regexMatch (printf "^%s([.]%s){3}$" $octet $octet) . }}
{{- $o := splitList "." . }}
{{- range list 0 2 }}
{{- $groups = append $groups (add (mul 256 (atoi (index $o .))) (atoi (index $o (add1 . | int)))) }}
{{- end }}
{{- else if and (contains ":" .) (regexMatch "^[0-9A-Fa-f:]{2,39}$" .) }}
{{- $halves := splitList "::" . }}
{{- $left := splitList ":" (first $halves) | compact }}
{{- $right := splitList ":" (last $halves) | compact }}
{{- if eq (len $halves) 1 }}{{ $right = list }}{{ end }}
{{- $count := add (len $left) (len $right) | int }}
{{- $zeros := sub 8 $count | int }}
{{- $form := "^[0-9A-Fa-f]{1,4}(:[0-9A-Fa-f]{1,4})*$" }}
{{- $ok := or (and (eq (len $halves) 1) (eq $count 8)) (and (eq (len $halves) 2) (gt $zeros 0)) }}
{{- range $halves }}{{ if and . (not (regexMatch $form .)) }}{{ $ok = false }}{{ end }}{{ end }}
{{- if $ok }}
{{- range $left }}{{ $groups = append $groups (printf "0x%s" . | int64) }}{{ end }}
{{- if gt $zeros 0 }}{{ range until $zeros }}{{ $groups = append $groups 0 }}{{ end }}{{ end }}
{{- range $right }}{{ $groups = append $groups (printf "0x%s" . | int64) }}{{ end }}
{{- end }}
{{- end }}
{{- if $groups }}
{{- dict "groups" $groups "text" (include "fastipam.text" $groups) | toJson }}
{{- else }}
{{- dict | toJson }}
{{- end }}
{{- end }}

{{/* The canonical text of an address (RFC 5952). */}}
{{- define "fastipam.text" -}}
{{- $texts := list }}
{{- if eq (len .) 2 }}
{{- range . }}{{ $texts = append $texts (printf "%d.%d" (div . 256) (mod . 256)) }}{{ end }}
{{- join "." $texts }}
{{- else }}
{{- range . }}{{ $texts = append $texts (printf "%x" (int64 .)) }}{{ end }}
{{- $text := join ":" $texts }}
{{- $short := "" }}
{{- range list 8 7 6 5 4 3 2 }}
{{- if not $short }}
{{- $run := printf "(^|:)0(:0){%d}(:|$)" (sub . 1) }}
{{- if regexMatch $run $text }}{{ $short = join "::" (regexSplit $run $text 2) }}{{ end }}
{{- end }}
{{- end }}
{{- $short | default $text }}
{{- end }}
{{- end }}

{{/* The CIDR of a text, as JSON: "length", "text" (its canonical form), "hasHostBits", "first" and "last", which are
     texts that are ordered as the addresses are; {} if it is none. */}}
{{- define "fastipam.cidr" -}}
{{- $parts := splitList "/" . }}
{{- $groups := (include "fastipam.address" (first $parts) | fromJson).groups | default list }}
{{- $known := and (eq (len $parts) 2) $groups (regexMatch "^(0|[1-9][0-9]{0,2})$" (last $parts)) }}
{{- $length := 999 }}
{{- if $known }}{{ $length = atoi (last $parts) }}{{ end }}
{{- if le $length (mul 16 (len $groups) | int) }}
{{- $network := list }}{{ $low := list }}{{ $high := list }}{{ $odd := false }}
{{- range $at, $group := $groups }}
{{- $host := sub 16 (max 0 (min 16 (sub $length (mul 16 $at)))) | int }}
{{- $size := 1 }}{{ range until $host }}{{ $size = mul 2 $size }}{{ end }}
{{- $base := mul $size (div (int64 $group) $size) }}
{{- if ne $base (int64 $group) }}{{ $odd = true }}{{ end }}
{{- $network = append $network $base }}
{{- $low = append $low (printf "%05d" $base) }}
{{- $high = append $high (printf "%05d" (add $base $size -1)) }}
{{- end }}
{{- $text := printf "%s/%d" (include "fastipam.text" $network) $length }}
{{- dict "length" $length "text" $text "hasHostBits" $odd "first" (join "." $low) "last" (join "." $high) | toJson }}
{{- else }}
{{- dict | toJson }}
{{- end }}
{{- end }}

{{/* What an exclusion covers (a CIDR, an address, or two with '-' between them), as JSON {"first": …, "last": …}. */}}
{{- define "fastipam.exclusion" -}}
{{- if contains "/" . }}
{{- include "fastipam.cidr" . }}
{{- else }}
{{- $ends := list }}
{{- range splitList "-" . }}
{{- $one := include "fastipam.address" . | fromJson }}
{{- $padded := list }}
{{- range $one.groups | default list }}{{ $padded = append $padded (printf "%05d" (int64 .)) }}{{ end }}
{{- $ends = append $ends (join "." $padded) }}
{{- end }}
{{- $whole := and (le (len $ends) 2) (eq (len (first $ends)) (len (last $ends))) (le (first $ends) (last $ends)) }}
{{- if and $whole (first $ends) }}
{{- dict "first" (first $ends) "last" (last $ends) | toJson }}
{{- else }}
{{- dict | toJson }}
{{- end }}
{{- end }}
{{- end }}
