{{/*
Host headers that MLflow answers to, separated by commas. It refuses others, lest a web page whose name was made to mean
an address in here (DNS rebinding) read it. That takes a name, and no name ends in digits as an address does: addresses
are answered to.
*/}}
{{- define "platform.mlflow.hosts" -}}
{{- $hosts := list "localhost" "*.[0-9]" "*.[0-9][0-9]" "*.[0-9][0-9][0-9]" "mlflow" -}}
{{- range $domain := list "" ".svc" ".svc.cluster.local" -}}
{{- $hosts = append $hosts (printf "mlflow.%s%s" $.Release.Namespace $domain) -}}
{{- end -}}
{{- $withPorts := list -}}
{{- range $hosts }}{{ $withPorts = append $withPorts (printf "%s:*" .) }}{{ end -}}
{{- concat $hosts $withPorts .Values.mlflow.allowedHosts | join "," -}}
{{- end }}
