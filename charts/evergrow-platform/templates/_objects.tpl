{{/* Labels of every object. `.` is a list: the root, and the object's component. */}}
{{- define "platform.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: evergrow
{{ include "platform.selector" . }}
{{- end }}

{{/* Labels of pods, by which they are chosen. They never change, so that a new version of the chart restarts no store. */}}
{{- define "platform.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* What keeps an object when the release is uninstalled, where data is kept. */}}
{{- define "platform.keep" -}}
{{- if .Values.keepData }}
annotations:
  helm.sh/resource-policy: keep
{{- end }}
{{- end }}

{{/* Settings of every pod. `.` is a dict: root, user (its uid), account (its service account, if it has
one of its own). */}}
{{- define "platform.pod" -}}
{{- with .account }}
serviceAccountName: {{ . }}
{{- end }}
automountServiceAccountToken: false
# A Service named mlflow would set MLFLOW_PORT to a URL, and the server would take it for its port.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Pods of a component are spread over nodes and zones as far as there are any. */}}
{{- define "platform.spread" -}}
topologySpreadConstraints:
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "platform.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}

{{/* Settings of every container. `.` is a dict: root, image, resources. */}}
{{- define "platform.container" -}}
image: {{ .image | quote }}
imagePullPolicy: {{ .root.Values.imagePullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
resources: {{- toYaml .resources | nindent 2 }}
{{- end }}

{{/* A Service in front of a component's pods. `.` is a dict: root, component, port. */}}
{{- define "platform.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .component }}
  labels: {{- include "platform.labels" (list .root .component) | nindent 4 }}
spec:
  selector: {{- include "platform.selector" (list .root .component) | nindent 4 }}
  ports:
    - name: {{ .name | default "http" }}
      port: {{ .port }}
      targetPort: {{ .name | default "http" }}
{{- end }}

{{/* The volume of a bundled store. `.` is a dict: root, component, store (its bundled values). */}}
{{- define "platform.volume" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .component }}-data
  labels: {{- include "platform.labels" (list .root .component) | nindent 4 }}
  {{- include "platform.keep" .root | nindent 2 }}
spec:
  accessModes: [ReadWriteOnce]
  {{- with .store.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests:
      storage: {{ .store.storage }}
{{- end }}

{{/* One pod may be taken away at a time. `.` is a list: the root, and the component. */}}
{{- define "platform.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ index . 1 }}
  labels: {{- include "platform.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "platform.selector" . | nindent 6 }}
{{- end }}

{{/* The number of pods follows their CPU use. `.` is a dict: root, component, autoscaling. */}}
{{- define "platform.autoscaler" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ .component }}
  labels: {{- include "platform.labels" (list .root .component) | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ .component }}}
  minReplicas: {{ .autoscaling.minReplicas }}
  maxReplicas: {{ .autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ .autoscaling.cpuUtilization }}}
{{- end }}
