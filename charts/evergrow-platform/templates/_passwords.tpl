{{/*
A password of a bundled store: the one that is in its Secret already, or else a new one. `.` is a dict: root, secret
(the Secret's name), key. Within one rendering it is the same wherever it is used.

The first letter is a letter, because Feast reads a value that looks like a number as one.
*/}}
{{- define "platform.password" -}}
{{- $values := .root.Values -}}
{{- if not (hasKey $values "passwords") }}{{ $_ := set $values "passwords" dict }}{{ end -}}
{{- $id := printf "%s/%s" .secret .key -}}
{{- if not (hasKey $values.passwords $id) -}}
  {{- $kept := get (lookup "v1" "Secret" .root.Release.Namespace .secret | default dict) "data" | default dict -}}
  {{- $password := hasKey $kept .key | ternary (get $kept .key | b64dec) (printf "p%s" (randAlphaNum 31)) -}}
  {{- $_ := set $values.passwords $id $password -}}
{{- end -}}
{{- get $values.passwords $id -}}
{{- end }}
