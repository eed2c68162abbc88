/*
like = "private_posts"
modelled_on = "The same feed, where the operator wants profiles closed and accepts what that means for posts"
options = ["adopt-table=profiles"]
[questions]
"policy:public.profiles:Anyone can read profiles" = "replace"
"reads:policy public.posts:Posts of open accounts, and one's own" = "accept"
[differs]
"Ada sees no private post of others" = "policy:public.profiles:Anyone can read profiles"
"Bo sees his own private posts" = "policy:public.profiles:Anyone can read profiles"
"anon sees open posts" = "policy:public.profiles:Anyone can read profiles"
"Ada lists accounts" = "policy:public.profiles:Anyone can read profiles"
"Bo counts posts" = "policy:public.profiles:Anyone can read profiles"
*/
